"""What a training run is: reads and writes live Keras objects, and knows no files."""
