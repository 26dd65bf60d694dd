"""Read images from a folder, a table, an NPZ or DICOM into arrays that are mapped from disk."""
