"""Rules: a language in which people say what shall happen to which flows.

`load` turns the text of rule files into an immutable `RuleSet`, or raises one `ConfigError` with
every finding. `RuleSet.decide` gives the action for a flow and its owner, and why;
`RuleSet.explain` says what every rule made of it (`trace`). A `Context` tells both what the owner
does not hold: command lines, host names, the time. `supposed` makes all three from a description.

The first rule that matches decides; the keys of one mapping must all fit, of a list one value must;
a condition on something that is not known is unknown, and unknown never matches, `not` included
(`logic`). Text becomes nodes with places (`nodes`), nodes become conditions (`table` lists
them; a new one is one class and one line), conditions a tree of matchers (`matches`). Nothing in
here does I/O, reads a clock or knows the platform.
"""

from .load import load
from .ruleset import Rule, RuleSet
from .subject import Context
from .trace import Miss, Step, Trace

__all__ = ["Context", "Miss", "Rule", "RuleSet", "Step", "Trace", "load"]
