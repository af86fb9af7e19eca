"""Search, promote and report from Python: a script, or the cells of a notebook.

It uses handwritten digits and networks of at most 20,000 parameters, and takes less than a minute on two cores.
"""

from search import promote, run

# Short runs of a few networks. You can interrupt it at any time: the same call continues.
result = run("digits", budget=20_000, trials=4, epochs=2)
print(result)

# One row for each trial: its score, its drawn values and its attributes.
table = result.trials_dataframe()
print(table[["number", "outcome", "score", "parameters", "network"]].to_string())

# Full runs of the best two trials. Each reads the test split once, at its end.
result = promote(result, top=2, epochs=5)
best = result.best
print(f"{best.network}: {best.parameters:,} parameters, {best.test_accuracy:.2%} on the test images")

# One HTML file with all results.
print(result.report())
