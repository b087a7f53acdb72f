"""RPC files of vendors and programs: all forms give GDAL's RPC; damaged fields are named; carriers are compared."""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
from helpers.vendor_files import LEANS, vendor_rpc, write_vendor_image

from skyfall_ns.errors import RasterError
from skyfall_ns.geo.raster import write_raster
from skyfall_ns.geo.rpc import COEFFICIENTS, NORMALIZATION, RPC
from skyfall_ns.geo.rpc_files.reading import read_rpc_file
from skyfall_ns.geo.rpc_files.texts import standard_name
from skyfall_ns.geo.rpc_readers import choose_rpc, read_rpc, rpc_difference_px

BLANK = np.zeros((1, 40, 40), np.uint16)
GDAL_NAMES = {  # name of an image beside which GDAL finds the file, and the file's name there
    "_RPC.TXT": ("a.tif", "a_RPC.TXT"),
    "rpc_WV": ("a.tif", "a.XML"),
    "RPC_": ("IMG_a_R1C1.TIF", "RPC_a.XML"),
    "rpc_PLEIADES": ("IMG_a_R1C1.TIF", "RPC_a.XML"),
    "rpc_SPOT6": ("IMG_a_R1C1.TIF", "RPC_a.XML"),
    "rpc_IKONOS": ("a.tif", "a_rpc.txt"),
    "rpc_PLANET": ("a.tif", "a_RPC.TXT"),
}
FILES = (
    "20191015_073816_ssc1d3_0011_basic_l1a_panchromatic_dn_RPC.TXT", "RPC_P1BP--2017092838284574CP.XML",
    "RPC_P1BP--2017092838319324CP.XML", "RPC_PHR1A_P_202503191043438_SEN_7342362101-1.XML",
    "RPC_PHR1B_P_201709281038045_SEN_PRG_FC_178608-001.XML", "RPC_PHR1B_P_201709281038393_SEN_PRG_FC_178609-001.XML",
    "rpc_IKONOS.txt", "rpc_PLANET_L1A.txt", "rpc_PLANET_L1B.txt", "rpc_PLEIADES.xml", "rpc_SPOT6.xml", "rpc_WV1.xml",
    "rpc_WV2.xml", "rpc_WV3.xml",
)  # fmt: skip


def ground_points(rpc: RPC) -> np.ndarray:
    u = np.random.default_rng(1).uniform(-0.9, 0.9, (300, 3))
    return np.array([rpc.long_off, rpc.lat_off, rpc.height_off]) + u * [rpc.long_scale, rpc.lat_scale, rpc.height_scale]


def project_as_gdal_reads(record: rasterio.rpc.RPC, lonlath: np.ndarray) -> np.ndarray:
    """(col, row) by GDAL's record of an RPC, with GDAL's own formula."""
    with rasterio.transform.RPCTransformer(record) as transformer:
        rows, cols = transformer.rowcol(*lonlath.T[:2], zs=lonlath[:, 2], op=lambda v: v)
    return np.stack([cols, rows], -1) - 0.5


@pytest.mark.parametrize("file", FILES)
def test_real_files_equal_what_gdal_reads(real_data, tmp_path, file):
    image, name = next(names for part, names in GDAL_NAMES.items() if part in file)
    write_raster(tmp_path / image, BLANK)
    shutil.copy(real_data / "rpc_only" / file, tmp_path / name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(tmp_path / image) as opened:
            record = opened.rpcs
    found = choose_rpc(tmp_path / image)
    assert found.file.name == name
    lonlath = ground_points(found.rpc)
    assert np.abs(found.rpc.project(lonlath) - project_as_gdal_reads(record, lonlath)).max() < 1e-3


@pytest.mark.parametrize("file", ["wv3_20.NTF", "wv3_30.NTF"])
def test_the_rpc_within_a_nitf_is_that_of_gdal(real_data, file):
    with rasterio.open(real_data / "rpc_only" / file) as opened:
        record = opened.rpcs
    rpc = read_rpc(real_data / "rpc_only" / file)
    assert np.abs(rpc.project(ground_points(rpc)) - project_as_gdal_reads(record, ground_points(rpc))).max() < 1e-3


def test_ossim_and_dimap_files_of_one_image_agree(real_data):
    """OSSIM counts from 0, DIMAP from 1."""
    for number in ("178608", "178609"):
        geom, dimap = (
            read_rpc_file(next((real_data / "rpc_only").glob(f"*{number}*{suffix}"))) for suffix in (".geom", ".XML")
        )
        assert np.abs(geom.project(ground_points(geom)) - dimap.project(ground_points(geom))).max() < 1e-3


@pytest.mark.parametrize("file", ["PHRDIMAP_P1BP--2017030824934340CP.XML", "PHRDIMAP_P1BP--2018122638935449CP.XML"])
def test_dimap_1_inverts_its_own_direct_model(real_data, file):
    """GDAL does not read DIMAP 1. The file's independent model from image to ground is the reference."""
    from xml.etree import ElementTree

    path = real_data / "rpc_only" / file
    rpc, root = read_rpc_file(path), ElementTree.parse(path).getroot()
    model, validity = next(root.iter("Direct_Model")), next(root.iter("RFM_Validity"))

    def normalize(value, tag):
        return (value - float(validity.findtext(f"{tag}/B"))) / float(validity.findtext(f"{tag}/A"))

    def denormalize(value, tag):
        return value * float(validity.findtext(f"{tag}/A")) + float(validity.findtext(f"{tag}/B"))

    from skyfall_ns.geo.rpc import rpc_monomials

    col, row = np.random.default_rng(0).uniform(2000, 30000, (2, 200))
    height = np.full(200, rpc.height_off)
    monomials = rpc_monomials(normalize(col + 1, "Col"), normalize(row + 1, "Row"), normalize(height, "Alt"))
    lon_lat = []
    for tag, axis in (("F_LON", "Lon"), ("F_LAT", "Lat")):
        c = np.array(model.findtext(tag).split(), float)
        lon_lat.append(denormalize((c[:20] @ monomials) / (c[20:] @ monomials), axis))
    found = rpc.project(np.stack([*lon_lat, height], -1))
    # the two models are separate fits, which agree to some hundredths of a pixel; an offset of 1 would be found
    assert np.abs(found - np.stack([col, row], -1)).max() < 0.1


def test_other_real_files_are_read(real_data):
    directory = real_data / "rpc_only"
    satnerf = json.loads((directory / "JAX_068_001_RGB.json").read_text())["rpc"]
    rpc = read_rpc_file(directory / "JAX_068_001_RGB.json")
    assert (rpc.line_off, rpc.long_off, rpc.height_scale) == (
        satnerf["row_offset"], satnerf["lon_offset"], satnerf["alt_scale"]
    )  # fmt: skip
    assert rpc.samp_den_coeff == tuple(satnerf["col_den"])
    enmap = read_rpc_file(next(directory.glob("ENMAP*")))
    assert (enmap.line_off, enmap.samp_off, enmap.line_den_coeff[0]) == (512.0, 500.0, 1.0)
    assert read_rpc_file(directory / "rpc_unsupported.xml").samp_off == 1600.0  # GDAL's own XML
    assert read_rpc_file(directory / "README.md") is None


def pairs_of(rpc: RPC) -> dict[str, str]:
    """Fields as in _RPC.TXT."""
    fields = {name.upper(): repr(float(getattr(rpc, name))) for name in NORMALIZATION}
    for name in COEFFICIENTS:
        fields |= {f"{name.upper()}_{k + 1}": repr(float(v)) for k, v in enumerate(getattr(rpc, name))}
    return fields


def as_text(rpc: RPC, form: str = "{}: {}") -> str:
    return "".join(form.format(name, value) + "\n" for name, value in pairs_of(rpc).items())


def as_geom(rpc: RPC) -> str:
    """OSSIM counts coefficients from 00."""
    lines = ["type:  ossimRpcModel", "polynomial_format:  B"]
    for name, value in pairs_of(rpc).items():
        stem, _, number = name.lower().rpartition("_")
        lines.append(f"{stem}_{int(number) - 1:02d}:  {value}" if number.isdigit() else f"{name.lower()}:  {value}")
    return "\n".join([*lines, ""])


def as_satnerf(rpc: RPC) -> str:
    names = {"line": "row", "samp": "col", "lat": "lat", "long": "lon", "height": "alt"}
    data = {f"{n}_offset": getattr(rpc, f"{k}_off") for k, n in names.items()}
    data |= {f"{n}_scale": getattr(rpc, f"{k}_scale") for k, n in names.items()}
    for key, name in (("line", "row"), ("samp", "col")):
        data |= {f"{name}_num": getattr(rpc, f"{key}_num_coeff"), f"{name}_den": getattr(rpc, f"{key}_den_coeff")}
    return json.dumps({"img": "a.tif", "rpc": data})


def as_dimap(rpc: RPC, version: int) -> str:
    model, domain = ("Inverse_Model", "Direct_Model_Validity_Domain") if version == 2 else (
        "GroundtoImage_Values", "ImagetoGround_Validity_Domain")  # fmt: skip
    first = 1.0 if version == 2 else 0.0
    values = pairs_of(rpc.with_offset(first, first))
    validity = "".join(f"<{n.upper()}>{values[n.upper()]}</{n.upper()}>" for n in NORMALIZATION)
    coefficients = "".join(f"<{n}>{v}</{n}>" for n, v in values.items() if "COEFF" in n)
    return (
        f"<Dimap_Document><Rational_Function_Model><Global_RFM><{model}>{coefficients}</{model}><RFM_Validity><{domain}>"
        f"<FIRST_ROW>{first}</FIRST_ROW><FIRST_COL>{first}</FIRST_COL></{domain}>{validity}</RFM_Validity></Global_RFM>"
        "</Rational_Function_Model></Dimap_Document>"
    )


def as_table(rpc: RPC) -> str:
    fields = pairs_of(rpc)
    return f"{','.join(fields)}\n{','.join(fields.values())}\n"


FORMS = {
    "a_RPC.TXT": as_text,
    "a_rpc.txt": lambda rpc: as_text(rpc, "{}: {} units"),
    "a_RPC.txt": lambda rpc: as_text(rpc, "{} = {}"),
    "a.rpc": lambda rpc: as_text(rpc, "{}\t{}"),
    "A_RPC.TXT": lambda rpc: "\ufeff" + as_text(rpc, "{}: {}\r"),
    "a.csv": as_table,
    "a_rpc.csv": lambda rpc: as_text(rpc, "{},{}"),
    "a.geom": as_geom,
    "a.json": as_satnerf,
    "a_rpc.json": lambda rpc: json.dumps(rpc.to_dict()),
    "RPC_a.XML": lambda rpc: as_dimap(rpc, 2),
    "DIM_a.XML": lambda rpc: as_dimap(rpc, 3),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_every_form_beside_an_image_gives_the_same_rpc(tmp_path, name):
    rpc = vendor_rpc(LEANS[0])
    write_raster(tmp_path / "a.tif", BLANK)
    (tmp_path / name).write_text(FORMS[name](rpc), encoding="utf-8")
    found = choose_rpc(tmp_path / "a.tif")
    assert found.file.name == name
    assert np.abs(found.rpc.project(ground_points(rpc)) - rpc.project(ground_points(rpc))).max() < 1e-6


@pytest.mark.parametrize("suffix", [".RPB", ".rpb", "_RPC.RPB"])
def test_rpb_files_of_any_spelling_are_read(tmp_path, suffix):
    rpc = vendor_rpc(LEANS[0])
    write_raster(tmp_path / "a.tif", BLANK)
    rpc.write_rpb(tmp_path / f"a{suffix}")
    assert choose_rpc(tmp_path / "a.tif").rpc == rpc


def test_names_of_fields_are_recognized_in_all_spellings():
    spellings = {
        "LINE_OFF": ("lineOffset", "LINEOFFSET", "row_offset", "ROW_OFF", "line_off", "Line_Offset"),
        "LONG_SCALE": ("longScale", "lon_scale", "LONGSCALE", "Longitude_Scale"),
        "SAMP_NUM_COEFF": ("sampNumCoef", "SAMPNUMCOEF", "col_num", "SAMP_NUM_COEFF"),
        "LINE_DEN_COEFF_3": ("LINE_DEN_COEFF_3", "ROW_DEN_03", "line_den_coeff_03"),
        "ERR_BIAS": ("ERR_BIAS",),
    }
    for name, spelled in spellings.items():
        assert {standard_name(text) for text in spelled} == {name}


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        ({"LINE_OFF": "5733,5"}, r"LINE_OFF of .*a_RPC.TXT is '5733,5', which is not a number\. Correct"),
        ({"LAT_SCALE": ""}, r"LAT_SCALE of .*a_RPC.TXT is '', which is not a number\. Correct"),
        ({"LAT_SCALE": "0"}, r"LAT_SCALE of .*a_RPC.TXT is 0.*\. Correct"),
        ({"HEIGHT_OFF": None}, r"a_RPC.TXT has no HEIGHT_OFF\. Copy"),
        ({"SAMP_DEN_COEFF_20": "nan"}, r"SAMP_DEN_COEFF_20 of .*a_RPC.TXT is 'nan', which is not a number\. Correct"),
        ({"LINE_NUM_COEFF_7": None}, r"a_RPC.TXT has no LINE_NUM_COEFF_7\. Copy"),
    ],
)
@pytest.mark.parametrize("tagged", [False, True])
def test_damaged_fields_are_named(tmp_path, odd, message, tagged):
    rpc = vendor_rpc(LEANS[0])
    write_vendor_image(tmp_path / "a.tif", BLANK, rpc if tagged else None)
    fields = {name: value for name, value in (pairs_of(rpc) | odd).items() if value is not None}
    (tmp_path / "a_RPC.TXT").write_text("".join(f"{name}: {value}\n" for name, value in fields.items()))
    with pytest.raises(RasterError, match=message):
        read_rpc(tmp_path / "a.tif")


@pytest.mark.parametrize("value", ["unknown", "", "1,5"])
def test_fields_that_no_rpc_needs_may_be_anything(tmp_path, value):
    rpc = vendor_rpc(LEANS[0])
    write_raster(tmp_path / "a.tif", BLANK)
    (tmp_path / "a_RPC.TXT").write_text(f"ERR_BIAS: {value}\nERR_RAND: {value}\n{as_text(rpc)}")
    assert read_rpc(tmp_path / "a.tif") == rpc


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.xml", "<isd><RPB><IMAGE><LINEOFFSET>12</LINEOFFSET></IMAGE></RPB></isd>", r"a.xml has no SAMP_OFF\. "),
        ("a.xml", "<isd><RPB>", r"a.xml is damaged XML .*\. Copy"),
        ("a.xml", '<!DOCTYPE x [<!ENTITY a "aaaa">]><x>&a;</x>', r"a.xml declares XML entities.*\. Copy"),
        ("a.json", '{"rpc": {"row_offset": 5}}', r"a.json has no SAMP_OFF\. |a.json has no LINE_SCALE\. "),
        ("a.json", '{"rpc": ', r"a.json is damaged JSON .*\. Copy"),
        ("a.geom", "polynomial_format: A\nline_off: 1\n", r"a.geom is an RPC of polynomial format A, not B\. Convert"),
        ("a.csv", "LINE_OFF,SAMP_OFF\n1,2\n3,4\n", r"a.csv is not the table of one RPC\. Write"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, text, message):
    write_raster(tmp_path / "a.tif", BLANK)
    (tmp_path / name).write_text(text)
    with pytest.raises(RasterError, match=message):
        read_rpc(tmp_path / "a.tif")


def test_two_carriers_are_compared_and_the_one_that_is_used_is_named(tmp_path):
    rpc = vendor_rpc(LEANS[0])
    image = write_vendor_image(tmp_path / "a.tif", BLANK, rpc)
    (tmp_path / "a_RPC.TXT").write_text(as_text(rpc))
    assert choose_rpc(image).notes == ()
    (tmp_path / "a_RPC.TXT").write_text(as_text(rpc.with_offset(0.0, 300.0)))
    chosen = choose_rpc(image)
    assert chosen.rpc == rpc.with_offset(0.0, 300.0)
    assert chosen.notes == ("a.tif: a_RPC.TXT and the RPC in the image differ by 300 pixels; a_RPC.TXT is used",)


def test_a_given_file_replaces_all_others(tmp_path):
    rpc = vendor_rpc(LEANS[0])
    image = write_vendor_image(tmp_path / "a.tif", BLANK, rpc)
    other = tmp_path / "elsewhere.txt"
    other.write_text(as_text(rpc.with_offset(5.0, 0.0)))
    assert choose_rpc(image, other).rpc == rpc.with_offset(5.0, 0.0)
    other.write_text("nothing")
    with pytest.raises(RasterError, match=r"elsewhere.txt has no RPC\. Give"):
        choose_rpc(image, other)


@pytest.mark.parametrize("name", ["a.tif_RPC.TXT", "RPC.TXT"])
def test_files_that_are_not_named_after_the_image_are_mentioned(tmp_path, name):
    write_raster(tmp_path / "a.tif", BLANK)
    (tmp_path / name).write_text(as_text(vendor_rpc(LEANS[0])))
    with pytest.raises(RasterError, match=rf"a.tif has no RPC, and {name} beside it is not named after it\. Rename"):
        read_rpc(tmp_path / "a.tif")


@pytest.mark.parametrize("axis", ["lat", "long", "height", "line", "samp"])
def test_negative_scales_are_the_same_camera(axis):
    rpc = vendor_rpc((0.3, 0.2))
    rng = np.random.default_rng(0)
    rpc = RPC.from_dict(
        rpc.to_dict() | {n: (np.array(getattr(rpc, n)) + 1e-3 * rng.normal(size=20)) for n in COEFFICIENTS}
    )
    data = rpc.to_dict() | {f"{axis}_scale": -getattr(rpc, f"{axis}_scale")}
    lonlath = ground_points(rpc)
    expected = RPC.project(_signed(data), lonlath)
    found = RPC.from_dict(data)
    assert min(getattr(found, f"{a}_scale") for a in ("line", "samp", "lat", "long", "height")) > 0
    assert np.abs(found.project(lonlath) - expected).max() < 1e-9


def _signed(data: dict) -> RPC:
    """An RPC whose scales were not checked: the formula as it stands."""
    rpc = object.__new__(RPC)
    for name, value in data.items():
        object.__setattr__(rpc, name, tuple(value) if isinstance(value, list) else value)
    return rpc


def test_tiles_of_a_delivery_have_the_rpc_of_the_whole_image_moved(tmp_path):
    rpc = vendor_rpc(LEANS[0])
    write_raster(tmp_path / "IMG_a_R2C3.TIF", BLANK)
    (tmp_path / "RPC_a.XML").write_text(as_dimap(rpc, 2))
    with pytest.raises(RasterError, match=r"IMG_a_R2C3.TIF is a tile of a larger image, and DIM_a.XML.*\. Copy"):
        read_rpc(tmp_path / "IMG_a_R2C3.TIF")
    (tmp_path / "DIM_a.XML").write_text(
        '<Dimap_Document><Regular_Tiling><NTILES_SIZE nrows="40" ncols="50"/><OVERLAP_ROW>0</OVERLAP_ROW>'
        "<OVERLAP_COL>0</OVERLAP_COL></Regular_Tiling></Dimap_Document>"
    )
    found = read_rpc(tmp_path / "IMG_a_R2C3.TIF")
    assert rpc_difference_px(found, rpc.for_crop(100, 40), (40, 40)) < 1e-6


def test_rpcs_of_other_places_have_an_infinite_difference():
    rpc = vendor_rpc(LEANS[0])
    moved = RPC.from_dict(rpc.to_dict() | {"long_off": rpc.long_off + 40})
    assert rpc_difference_px(rpc, moved, (200, 200)) == np.inf


def test_files_too_large_for_metadata_are_refused(tmp_path, monkeypatch):
    from skyfall_ns.geo.rpc_files import reading

    monkeypatch.setattr(reading, "MAX_BYTES", 100)
    Path(tmp_path / "a_RPC.TXT").write_text(as_text(vendor_rpc(LEANS[0])))
    with pytest.raises(RasterError, match=r"a_RPC.TXT is too large for metadata\. Give"):
        read_rpc_file(tmp_path / "a_RPC.TXT")
