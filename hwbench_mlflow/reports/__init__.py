"""Reports: published rows in, HTML, Markdown, JSON or CSV out. Pure; knows no database and no tracking store."""
