"""Search spaces: each module defines ``SPACE``; ``search NAME`` takes the module of that name."""
