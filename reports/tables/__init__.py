"""Tables that compare what is stored with what was published."""
