"""Reports for people: blocks of text, tables and pictures, written as HTML or Markdown."""
