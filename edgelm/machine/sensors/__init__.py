"""What a machine tells of itself while it computes: power, heat, clocks, throttling, short memory.

One small reader a source; `open_sensors` takes those that a machine has, `Sampler` reads them while something runs.
"""

from edgelm.machine.sensors.sampler import Sampler, Trace
from edgelm.machine.sensors.sensors import Sensors, open_sensors
from edgelm.machine.sensors.summary import SensorSummary, summarize

__all__ = ["Sampler", "SensorSummary", "Sensors", "Trace", "open_sensors", "summarize"]
