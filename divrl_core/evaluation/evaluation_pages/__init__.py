"""An evaluation as tables, figures and a page."""
