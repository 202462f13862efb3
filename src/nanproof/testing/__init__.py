"""The bridge that lets coremltools' own tests judge nanproof's predictions."""
