"""An attack and a training defense of another package."""

ATTACKS = {"twice": "kerasrobust_plugin.attack:Twice"}
