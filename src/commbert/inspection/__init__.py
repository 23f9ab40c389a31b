"""Looking at tables: what lies at a path, some of its rows in words, what is in its columns."""
