"""The commands `kr-eval`, `kr-train`, `kr-tune`: options in, one call of `kerasrobust`, a table.

TensorFlow takes seconds to import, so the modules here import `kerasrobust` inside the commands:
`--help` and a mistyped option answer at once.
"""
