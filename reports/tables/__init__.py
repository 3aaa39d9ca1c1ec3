"""Tables of what is stored beside what was published."""
