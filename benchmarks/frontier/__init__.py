"""Size against quality: edgelm's recipes and llama.cpp's file types of the same original, on the same ids."""
