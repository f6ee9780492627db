"""python -m visionrnn.kernels.native [FOLDER]: builds the native CPU library."""

import sys

from .build import main

sys.exit(main())
