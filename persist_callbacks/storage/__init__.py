"""What a checkpoint is on disk: knows files, and no Keras."""
