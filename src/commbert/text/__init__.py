"""Source text: bytes to lines, code apart from comments, words."""
