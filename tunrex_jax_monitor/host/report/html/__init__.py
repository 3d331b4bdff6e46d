"""What the HTML pages are made of: data for the charts, tables, a template, and a script around the vendored uPlot."""
