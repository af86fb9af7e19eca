"""How the pages become a site: `python -m sphinx -W -b html docs site`."""

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
