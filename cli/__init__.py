"""The commands `kr-eval` and `kr-train`: options in, one call into `kerasrobust`, a table out.

TensorFlow takes seconds to import, so the modules here import `kerasrobust` inside the commands:
`--help` and a mistyped option answer at once.
"""
