"""A synthetic georeferenced city, delivered as a vendor would, with its exact truth."""

from skyfall_ns.synthetic_city.delivery import CityDelivery, write_city

__all__ = ["CityDelivery", "write_city"]
