"""What inference is: a graph in, frozen bytes out. Knows no Keras after trace.py."""
