"""How the pages become a site: `python -m sphinx -W -b html docs site`."""

from pathlib import Path

project = "budget-search"
extensions = ["myst_parser"]
exclude_patterns = ["clusters/*"]  # files to use, not pages
html_theme = "furo"
html_title = "budget-search"
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
highlight_language = "text"  # of indented blocks: commands and what they print

myst_heading_anchors = 3  # pages link to each other's headings
nitpicky = True

# Pages that are written elsewhere: until they are there, links to them may lead nowhere.
COMING = ("dashboard", "export", "python", "terminal")
if any(not Path(__file__).with_name(f"{page}.md").exists() for page in COMING):
    suppress_warnings = ["myst.xref_missing"]
