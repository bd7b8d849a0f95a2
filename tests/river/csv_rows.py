"""Reads CSV texts (a JSON list in the file named first) with Python's csv: a JSON line {"rows": …} for each."""

import csv
import io
import json
import sys

with open(sys.argv[1], encoding="utf-8") as file:
    for text in json.load(file):
        rows = list(csv.reader(io.StringIO(text, newline="")))
        print(json.dumps({"rows": rows[1:]}))
