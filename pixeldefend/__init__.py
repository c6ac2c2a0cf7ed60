"""pixeldefend"""
