"""GrowthBook's Python SDK on the experiment of assignment.sql, in microseconds a user, and the ratio to assign_variant."""

import json
import os
import time

from growthbook import GrowthBook

features = json.loads(os.environ["FEATURES"])["features"]
users = [f"user-{i}" for i in range(1, 20_001)]


def seconds(evaluate):
    started = time.perf_counter()
    for user in users:
        evaluate(user)
    return time.perf_counter() - started


kept = GrowthBook(features=features)


def with_new_attributes(user):
    kept.set_attributes({"id": user})
    kept.get_feature_value("bench", "")


def with_a_new_object(user):
    GrowthBook(attributes={"id": user}, features=features).get_feature_value("bench", "")


ours = float(os.environ["OURS"])
for name, evaluate in [("one object kept", with_new_attributes), ("one object a user", with_a_new_object)]:
    theirs = min(seconds(evaluate) for _ in range(3)) / len(users) * 1e6
    print(f"GrowthBook Python SDK, {name}: {theirs:.1f} us a user, {theirs / ours:.0f} times assign_variant")
