"""What a user would run instead of tutelage, on the same images, weights and minutes.

Each peer takes a ``Draw`` (no test images in it) and gives back a ``Trained`` classifier. None of
them uses tutelage's steps, losses, views or loop: only its decoded pixels and its model class,
which carries the shared trunk.
"""
