"""Pictures drawn without a display: ``boxes.draw_bev`` from above, ``camera.draw_camera`` in the image.

They need matplotlib: ``pip install 'visionrnn[viz]'``.
"""
