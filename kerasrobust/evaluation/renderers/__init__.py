"""How a report looks: functions of it, each for one medium."""
