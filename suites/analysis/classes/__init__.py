"""The classes that a router gives to pixels: what they group (`prompts`), and the sequence that they make (`sgn`)."""
