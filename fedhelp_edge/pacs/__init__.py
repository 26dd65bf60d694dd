"""A DICOM node: an archive stores images here, and gets reports and heat-maps back.

`queue` keeps what is due on disk, `receive` is the door for images, `send` brings results, `node` runs them.
"""
