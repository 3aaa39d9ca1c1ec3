"""From a picture to its score: degradation, tiles, metrics, records of weights."""
