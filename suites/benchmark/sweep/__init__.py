"""What networks cost against resolution: every point in a process of its model, filed as soon as it is measured."""
