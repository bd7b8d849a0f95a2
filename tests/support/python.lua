--- How the specs start the Python that numbers are compared with.

local python = {}

--- The Python of the test environment.
python.path = os.getenv("RIVERLUA_TEST_PYTHON") or "build/venv/bin/python"

--- Variables that make its numbers the same on every machine: sets of texts in one order, and sums in the order of one
--- of OpenBLAS's kernels, which it would choose by the processor (their last bits differ).
python.variables = "PYTHONHASHSEED=0 OPENBLAS_CORETYPE=Haswell"

--- The beginning of a shell command that runs a script.
python.command = python.variables .. " " .. python.path

return python
