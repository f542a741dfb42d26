from heliostat.plugin import Encoder, TokenFeatures
class TextEncoder(Encoder):
    gives = TokenFeatures
