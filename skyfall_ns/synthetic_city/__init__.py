"""A synthetic georeferenced city in the form of a vendor's delivery, with exact ground truth."""

from skyfall_ns.synthetic_city.delivery import CityDelivery, write_city

__all__ = ["CityDelivery", "write_city"]
