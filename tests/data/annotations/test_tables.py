"""CSV, TSV, JSON lines, lists of BLIP and LLaVA, and folders of Hugging Face's imagefolder."""

import codecs
import json

import pytest
from annotation_files import raw_by_name, read, split_by_name, touch, write_json

DOG = {"1.jpg": ["A dog"]}


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        (  # Kaggle's Flickr8k; a comma that lacks its quotes
            "captions.txt",
            'image,caption\n1.jpg,A dog .\n1.jpg,"Two ""dogs"", running"\n'
            "2.jpg,One, two, three\n\n",
            {"1.jpg": ["A dog .", 'Two "dogs", running'], "2.jpg": ["One, two, three"]},
        ),
        (  # Flickr30k, with its one line that lacks a bar
            "results.csv",
            'image_name| comment_number| comment\n1.jpg| 0| Two "young" guys .\n'
            "2199200615.jpg| 3| A dog runs .\n2199200615.jpg| 4   A dog runs across the grass .\n",
            {
                "1.jpg": ['Two "young" guys .'],
                "2199200615.jpg": ["A dog runs .", "A dog runs across the grass ."],
            },
        ),
        ("a.tsv", "File_Name\tText\r\n1.jpg\tA dog\r\n", DOG),
        ("a.csv", "\ufefffilename;description\n1.jpg;A dog\n", DOG),
        (
            "a.csv",
            'image,caption\n1.jpg,"A dog,\nand\r\na, cat"\n2.jpg,"A" dog\n3.jpg,a cow',
            {"1.jpg": ["A dog, and a, cat"], "2.jpg": ["A dog"], "3.jpg": ["a cow"]},
        ),
        (  # R's write.csv
            "a.csv",
            '"","image","caption"\n"1","1.jpg","A dog, two"\n',
            {"1.jpg": ["A dog, two"]},
        ),
        ("a.csv", "\r\n\nimage,caption\n1.jpg,A dog\n", DOG),
        (
            "a.tsv",
            'image\tcaption\n1.jpg\t"Stop" sign\n2.jpg\t"Stop\n3.jpg\t"A ""big"" dog"\n',
            {"1.jpg": ['"Stop" sign'], "2.jpg": ['"Stop'], "3.jpg": ['A "big" dog']},
        ),
        ("a.tsv", '"image"\t"caption"\n"1.jpg"\t"A\tdog\nruns"\n', {"1.jpg": ["A dog runs"]}),
        ("a.csv", "image,caption,caption\n1.jpg,A dog,A cat\n", {"1.jpg": ["A dog", "A cat"]}),
        (
            "a.csv",
            "image,Caption,caption_1,text_1\n1.jpg,A dog,A cat,x\n",
            {"1.jpg": ["A dog", "A cat"]},
        ),
        ("a.json", '\n{"image": "1.jpg", "caption": "A dog"}\n' * 2, {"1.jpg": ["A dog", "A dog"]}),
        ("a.csv", "image,caption\n1.jpg,\n1.jpg,A dog\x00\n1.jpg,12 !\n2.jpg,\n", DOG),
        (
            "a.csv",  # as in the CSV of flickr_annotations_30k.csv
            'raw,sentids,split,filename\n"[""A dog"", ""A \\""cat\\"".""]","[0, 1]",train,1.jpg\n',
            {"1.jpg": ["A dog", 'A "cat".']},
        ),
        (
            "a.csv",
            "file_name,caption_1,caption_2,caption_3\n1.jpg,A dog,A cat,\n",
            {"1.jpg": ["A dog", "A cat"]},
        ),
        (
            "a.jsonl",
            '\ufeff{"image": "1.jpg", "caption": "A dog"}\r\n\r\n'
            '{"image": "2.jpg", "caption": null}\n'
            '{"image": "1.jpg", "caption": ["A\u2028cat", 5]}\n',
            {"1.jpg": ["A dog", "A\u2028cat"]},
        ),
    ],
)
def test_tables_give_the_captions_of_each_image(tmp_path, name, text, expected):
    path = tmp_path / name
    path.write_bytes(text.encode())
    assert raw_by_name(read(path, tmp_path, fractions="1,0")) == expected


def test_table_in_utf_16_is_read(tmp_path):
    path = tmp_path / "excel.csv"
    path.write_bytes(codecs.BOM_UTF16_LE + "image,caption\n1.jpg,Größe\n".encode("utf-16-le"))
    assert raw_by_name(read(path, tmp_path)) == {"1.jpg": ["Größe"]}


def test_table_in_latin_1_says_how_to_save_it(tmp_path):
    path = tmp_path / "excel.csv"
    path.write_bytes("image,caption\n1.jpg,Größe\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"excel\.csv: is not UTF-8 text .*: save it as UTF-8"):
        read(path, tmp_path)


def test_table_with_other_columns_takes_their_given_names(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text("key,sentence one,part,number\n1.jpg,A dog,TRAIN,7\n2.jpg,A cat,dev,8\n")
    columns = {"image": "key", "caption": "sentence one", "split": "part", "image_id": "number"}
    found = read(path, tmp_path, columns=columns)
    assert split_by_name(found) == {"1.jpg": "train", "2.jpg": "val"}
    assert [record.image_id for record in found] == ["7", "8"]
    with pytest.raises(ValueError, match=r"own\.csv: line 2 has no column 'sentence'"):
        read(path, tmp_path, columns=columns | {"caption": "sentence"})


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.csv", "image,other\n1.jpg,A dog\n", "line 2 has no caption among its columns image, o"),
        ("a.csv", "image,caption\n,A dog\n", "line 2 has no image among its columns image, cap"),
        ("a.csv", "image,caption,split\n1.jpg,a,train\n1.jpg,b,val\n", "in the splits 'train' and"),
        ("a.csv", 'image,caption\n1.jpg,"' + "a" * 140_000, "is no row of a table"),
        ("a.jsonl", '{"image": "1.jpg", "caption": "a"}\n{', "line 2 is not JSON"),
        ("a.jsonl", "[1]", r"line 1 is '\[1\]': each must be an object"),
        ("a.jsonl", "[" * 5000, "line 1 is not JSON"),
        ("a.json", '[{"image": "1.jpg", "caption": "a"}, 5]', "item 1 is '5': each must be"),
        ("a.json", '[{"picture": "1.jpg"}]', "item 0 has no image among its columns picture"),
        (
            "a.json",
            '[{"image": ["1.jpg", "2.jpg"], "caption": "a"}]',
            r"the image \['1.jpg', '2.jpg'\], no",
        ),
        ("a.jsonl", '{"image": 5, "caption": "a"}', "line 1 has the image 5, no file name: name"),
        ("a.csv", "image,image,caption\n1.jpg,2.jpg,a\n", r"the image \['1.jpg', '2.jpg'\], no"),
        ("a.csv", 'image,caption\n1.jpg,a\n2.jpg,"b\n3.jpg,c\n', "line 3 is no row .* to line 4 "),
        ("a.csv", 'image,caption\n1.jpg,"a\n2.jpg,"b" c\n3.jpg,d\n', "line 2 is no row .* line 3 "),
        (
            "a.csv",
            'image,caption\n1.jpg,"a\n2.jpg,b 5"\n3.jpg,d\n',
            "line 2 is no row .* rows between",
        ),
        (
            "a.csv",
            'image,caption\n1.jpg,a\n2.jpg,"cut sh',
            "line 3 is no row .*: double the quotes",
        ),
        ("a.csv", "image,caption,by\n1.jpg,a, b,Bob\n", "line 2 has 4 fields, the header 3: quote"),
        ("a.csv", "image,caption_1,caption_2\n1.jpg,a, b,c\n", "line 2 has 4 fields, the header 3"),
        ("a.csv", "", "is empty: write or download it again"),
        ("a.jsonl", "", "is empty"),
        ("a.jsonl", "\n", "holds no rows or images: add some, or leave it out"),
        ("a.csv", "image,caption\n", "holds no rows or images"),
        ("a.json", '[{"image": "../1.jpg", "caption": "a"}]', "leads out of the image folder"),
        ("a.json", "[5]", "its layout is not recognized: name one of karpathy, coco"),
        ("a.doc", "image,caption\n1.jpg,A dog\n", "its layout is not recognized"),
        ("a.csv", "A dog\nA cat\n", "its layout is not recognized"),
    ],
)
def test_table_with_a_wrong_row_names_it(tmp_path, name, text, told):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ValueError, match=told) as caught:
        read(path, tmp_path)
    assert str(path) in str(caught.value)


def test_blip_lists_take_the_split_of_their_file_name(tmp_path):
    train = [
        {
            "caption": "A dog",
            "image": "val2014/COCO_val2014_000000522418.jpg",
            "image_id": "coco_5",
        },
        {
            "caption": "Two dogs",
            "image": "val2014/COCO_val2014_000000522418.jpg",
            "image_id": "coco_5",
        },
    ]
    val = [{"image": "val2014/COCO_val2014_000000184613.jpg", "caption": ["A child", "A cow"]}]
    files = [
        write_json(tmp_path / "coco_karpathy_train.json", train),
        write_json(tmp_path / "coco_karpathy_val.json", val),
    ]
    first, second = read(files, tmp_path)
    assert (first.image_id, first.split, first.raw) == ("coco_5", "train", ("A dog", "Two dogs"))
    assert second.image_id == "val2014/COCO_val2014_000000184613.jpg"
    assert (second.split, second.raw) == ("val", ("A child", "A cow"))


@pytest.mark.parametrize(
    "item",
    [
        {
            "id": "004539375",
            "image": "00453/1.jpg",
            "conversations": [
                {"from": "human", "value": "Render a clear summary.\n<image>"},
                {"from": "gpt", "value": "A dog"},
                {"from": "human", "value": "Is it big?"},
                {"from": "gpt", "value": "Yes"},
            ],
        },
        {
            "messages": [
                {"role": "user", "content": "<image>What is it?"},
                {"role": "assistant", "content": "A dog"},
            ],
            "images": ["1.jpg"],
        },
    ],
)
def test_conversations_give_their_first_answer(tmp_path, item):
    path = write_json(tmp_path / "blip_laion_cc_sbu_558k.json", [item])
    assert raw_by_name(read(path, tmp_path)) == DOG


def test_object_of_names_and_captions_is_read(tmp_path):
    path = write_json(tmp_path / "captions.json", {"1.jpg": ["A dog"], "b/2.jpg": "A cat"})
    assert raw_by_name(read(path, tmp_path)) == DOG | {"2.jpg": ["A cat"]}


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_imagefolder_reads_metadata_at_its_top_and_in_its_splits(tmp_path, suffix):
    rows = [("a/1.jpg", "A dog"), ("2.jpg", "A cat")]
    text = "".join(json.dumps({"file_name": n, "text": t}) + "\n" for n, t in rows)
    if suffix == "csv":
        text = "file_name,text\n" + "".join(f"{n},{t}\n" for n, t in rows)
    for part in ("train", "validation"):
        touch(tmp_path / part, "a/1.jpg", "2.jpg", f"metadata.{suffix}")
        (tmp_path / part / f"metadata.{suffix}").write_text(text)
    found = read(tmp_path)
    assert [(r.path.relative_to(tmp_path).as_posix(), r.split) for r in found] == [
        ("train/a/1.jpg", "train"),
        ("train/2.jpg", "train"),
        ("validation/a/1.jpg", "val"),
        ("validation/2.jpg", "val"),
    ]
    (tmp_path / f"metadata.{suffix}").write_text(text.replace("a/1", "test/1"))
    (top, *_) = read(tmp_path)
    assert (top.image_id, top.split) == ("test/1.jpg", "test")
