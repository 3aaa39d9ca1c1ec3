"""What networks cost, made from the committed sweeps: frames that tables and charts share."""
