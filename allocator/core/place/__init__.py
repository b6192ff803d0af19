"""Placing: from what is asked to host ports and a node.

`plan` is the way of an ask. It takes the numbers that the policy fixes (`policies`), or some that are free everywhere,
and a node where all are free together (`view`). That is nearly always the answer. If there is none, all numbers that
can be had are tried (`assignment`, `joint`), room is made by moving plans (`matching`, `backtracking`), or it is said
why not (`denials`).
"""
