"""The whole loop from Python: a script, or the cells of a notebook.

Handwritten digits, networks of at most 20,000 parameters: under a minute on two cores.
"""

from search import promote, run

# Short runs of a few networks. Interrupt it when you like: the same call goes on from there.
result = run("digits", budget=20_000, trials=4, epochs=2)
print(result)

# Every trial as a row: its score, what it drew, what is known of it.
table = result.trials_dataframe()
print(table[["number", "state", "score", "parameters", "in words"]].to_string())

# The best two at greater length. Only now is the test split read, once for each.
result = promote(result, top=2, epochs=5)
best = result.best
print(f"{best.network}: {best.parameters:,} parameters, {best.test_accuracy:.2%} on the test images")

# One HTML file with all of it.
print(result.report())
