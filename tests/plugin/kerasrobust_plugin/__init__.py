"""An attack, a training defense and a metric of another package."""

ATTACKS = {"twice": "kerasrobust_plugin.attack:Twice"}
