"""Variants of user ids by GrowthBook's SDK: export_growthbook() on stdin as {"features": ..., "key": ..., "ids": [...]}."""

import json
import sys

from growthbook import GrowthBook

given = json.load(sys.stdin)
served = []
for unit in given["ids"]:
    sdk = GrowthBook(attributes={"id": unit}, features=given["features"])
    served.append(sdk.get_feature_value(given["key"], "no such feature"))
json.dump(served, sys.stdout)
