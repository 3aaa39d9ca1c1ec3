"""Charts by Vega-Lite: what is stored and committed, drawn for the report and for files."""
