"""The course's figures, drawn with matplotlib."""
