//! Task distribution for mesh.
