"""Pages: the report, and the documents whose tables are made from records."""
