"""What every training of this project shares: the loop, shards of recorded data, early stopping."""
