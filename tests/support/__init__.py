"""What tests and benchmarks share: stand-ins, builders of runs, processes, a database server, a browser.

Test modules import from here, never from each other; nothing here imports a test module or a benchmark.
"""
