"""How the pages become a site: `python -m sphinx -W -b html docs site`."""

from search.version import version as version_of_the_package

project = "budget-search"
version = release = version_of_the_package()
extensions = ["myst_parser", "sphinx_copybutton"]
exclude_patterns = ["clusters/*"]  # files to use, not pages
html_theme = "furo"
html_title = f"budget-search {version}"
html_show_copyright = False
html_show_sphinx = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
highlight_language = "text"  # of indented blocks: commands and what they print

myst_heading_anchors = 3  # pages link to each other's headings
nitpicky = True

copybutton_prompt_text = "$ "  # is not copied
