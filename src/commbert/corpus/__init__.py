"""From sources to lines: fetching, reading, cleaning, splitting."""
