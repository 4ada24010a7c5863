"""Slow references, in plain Python, as the papers write them: one for each estimator and each objective.

They share no code with what they check, take float64 tensors, and read nothing where the mask is False. That the fast
versions equal them is a law: [ORACLES][rl4llm.testing.reference.oracles.ORACLES] says which belongs to which component.
"""
