"""Write the page of a trace folder: the door to `mpdf_langgraph.traces.view`."""

import sys

from mpdf_langgraph.traces.view.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
