//! An authenticated TCP transport for mesh, without a runtime.
