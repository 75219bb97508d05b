"""Make the authority list data/authority/domains.csv.

    python data/make_authority.py ../shared/data/domains data/authority

A small table of facts (below: which organisations are worth trusting first, how strongly, and what they are) is joined with public
lists, which give names and countries and decide doubtful cases: the list of universities (a domain that is not on it is refused), the
list of .gov registrations (same), the quality scores of news sites and Wikipedia's perennial sources (a newspaper must be rated there),
and the Chinese list of media whose news others may reprint. Facts only: no rating's text or number is copied. The same input gives the same bytes.

Tiers: 1 primary sources (a state's or a world body's own figures, laws and standards; the foremost journals and academies), 2 strong secondary
sources (research institutes, universities, news agencies, scholarly publishers), 3 good but to be checked (newspapers, open reference works, whole registries).
"""
import collections, csv, gzip, io, json, re, sys
from pathlib import Path

# ---- the table of facts. A line: tier, country (ISO 3166 alpha-2, - for none), language (ISO 639-1): domain Name | domain Name ...
GOVERNMENT_US = {  # federal .gov domains; names come from the registry
 1: """cdc.gov nih.gov fda.gov nasa.gov noaa.gov usgs.gov census.gov bls.gov bea.gov eia.gov epa.gov nist.gov congress.gov govinfo.gov loc.gov cbo.gov gao.gov sec.gov
    federalreserve.gov treasury.gov irs.gov supremecourt.gov uscourts.gov state.gov justice.gov energy.gov usda.gov hhs.gov cms.gov weather.gov nsf.gov archives.gov
    ftc.gov fcc.gov fdic.gov ed.gov dol.gov dot.gov faa.gov nhtsa.gov hud.gov va.gov dhs.gov cisa.gov cia.gov nrc.gov uspto.gov copyright.gov federalregister.gov ecfr.gov
    regulations.gov usitc.gov fec.gov cancer.gov clinicaltrials.gov house.gov senate.gov whitehouse.gov commerce.gov""",
 2: """usaspending.gov data.gov usa.gov bts.gov osha.gov ntsb.gov cpsc.gov consumerfinance.gov sba.gov ssa.gov fema.gov fws.gov nps.gov blm.gov usbr.gov boem.gov doi.gov
    fbi.gov dea.gov ojp.gov bjs.gov uscis.gov cbp.gov trade.gov bis.gov export.gov fiscaldata.gov hrsa.gov samhsa.gov ahrq.gov healthcare.gov medicare.gov medlineplus.gov
    nal.usda.gov fs.usda.gov ornl.gov lanl.gov anl.gov lbl.gov nrel.gov pnnl.gov bnl.gov llnl.gov inl.gov sandia.gov osti.gov science.gov nist.gov ntia.gov usaid.gov
    peacecorps.gov cftc.gov ncua.gov eeoc.gov nlrb.gov opm.gov gsa.gov usps.gov imls.gov neh.gov nea.gov arts.gov tva.gov exim.gov dfc.gov mcc.gov dni.gov ferc.gov
    fhfa.gov occ.gov ffiec.gov fincen.gov usmint.gov drought.gov climate.gov globalchange.gov airnow.gov ready.gov foodsafety.gov nutrition.gov womenshealth.gov""",
}
GOVERNMENT = """
1 CN zh: www.gov.cn 中国政府网 | stats.gov.cn 国家统计局 | ndrc.gov.cn 国家发展和改革委员会 | mof.gov.cn 财政部 | mofcom.gov.cn 商务部 | miit.gov.cn 工业和信息化部 | moe.gov.cn 教育部 | most.gov.cn 科学技术部 | nhc.gov.cn 国家卫生健康委员会 | pbc.gov.cn 中国人民银行 | csrc.gov.cn 中国证券监督管理委员会 | samr.gov.cn 国家市场监督管理总局 | cnipa.gov.cn 国家知识产权局 | mee.gov.cn 生态环境部 | mnr.gov.cn 自然资源部 | mot.gov.cn 交通运输部 | mohrss.gov.cn 人力资源和社会保障部 | mohurd.gov.cn 住房和城乡建设部 | moa.gov.cn 农业农村部 | mwr.gov.cn 水利部 | mca.gov.cn 民政部 | moj.gov.cn 司法部 | fmprc.gov.cn 外交部 | mfa.gov.cn 外交部 | npc.gov.cn 全国人民代表大会 | court.gov.cn 最高人民法院 | spp.gov.cn 最高人民检察院 | customs.gov.cn 海关总署 | chinatax.gov.cn 国家税务总局 | safe.gov.cn 国家外汇管理局 | nea.gov.cn 国家能源局 | cac.gov.cn 国家互联网信息办公室 | nmpa.gov.cn 国家药品监督管理局 | sasac.gov.cn 国务院国有资产监督管理委员会 | audit.gov.cn 审计署 | cma.gov.cn 中国气象局 | nsfc.gov.cn 国家自然科学基金委员会 | mem.gov.cn 应急管理部 | mps.gov.cn 公安部 | nfra.gov.cn 国家金融监督管理总局 | nhsa.gov.cn 国家医疗保障局 | chinacdc.cn 中国疾病预防控制中心 | flk.npc.gov.cn 国家法律法规数据库
2 CN zh: forestry.gov.cn 国家林业和草原局 | sport.gov.cn 国家体育总局 | ncha.gov.cn 国家文物局 | caac.gov.cn 中国民用航空局 | nra.gov.cn 国家铁路局 | cnsa.gov.cn 国家航天局 | natcm.gov.cn 国家中医药管理局 | mct.gov.cn 文化和旅游部 | saac.gov.cn 国家档案局 | scio.gov.cn 国务院新闻办公室 | nrta.gov.cn 国家广播电视总局 | beijing.gov.cn 北京市人民政府 | shanghai.gov.cn 上海市人民政府 | gd.gov.cn 广东省人民政府 | sz.gov.cn 深圳市人民政府 | zj.gov.cn 浙江省人民政府 | jiangsu.gov.cn 江苏省人民政府 | tj.gov.cn 天津市人民政府 | cq.gov.cn 重庆市人民政府 | sc.gov.cn 四川省人民政府 | hubei.gov.cn 湖北省人民政府 | shandong.gov.cn 山东省人民政府 | henan.gov.cn 河南省人民政府 | fujian.gov.cn 福建省人民政府 | hunan.gov.cn 湖南省人民政府 | ah.gov.cn 安徽省人民政府 | shaanxi.gov.cn 陕西省人民政府
1 HK zh: censtatd.gov.hk 香港政府統計處 | elegislation.gov.hk 電子版香港法例 | hkma.gov.hk 香港金融管理局 | hko.gov.hk 香港天文台
2 HK zh: gov.hk 香港政府一站通 | chp.gov.hk 衞生防護中心 | sfc.hk 證券及期貨事務監察委員會
1 TW zh: stat.gov.tw 中華民國統計資訊網 | law.moj.gov.tw 全國法規資料庫 | cwa.gov.tw 中央氣象署 | cbc.gov.tw 中央銀行
1 MO zh: dsec.gov.mo 統計暨普查局
1 SG en: singstat.gov.sg Department of Statistics Singapore | mas.gov.sg Monetary Authority of Singapore | moh.gov.sg Ministry of Health Singapore | sso.agc.gov.sg Singapore Statutes Online
1 GB en: www.gov.uk Government of the United Kingdom | ons.gov.uk Office for National Statistics | legislation.gov.uk UK legislation | nationalarchives.gov.uk The National Archives | metoffice.gov.uk Met Office | parliament.uk UK Parliament | bankofengland.co.uk Bank of England | nhs.uk National Health Service | supremecourt.uk UK Supreme Court | obr.uk Office for Budget Responsibility
2 GB en: nice.org.uk National Institute for Health and Care Excellence | fca.org.uk Financial Conduct Authority | ofcom.org.uk Ofcom | ofgem.gov.uk Ofgem | ico.org.uk Information Commissioner's Office | hse.gov.uk Health and Safety Executive | gov.scot Scottish Government | gov.wales Welsh Government
1 CA en: canada.ca Government of Canada | statcan.gc.ca Statistics Canada | laws-lois.justice.gc.ca Justice Laws Website | bankofcanada.ca Bank of Canada | parl.ca Parliament of Canada | cihi.ca Canadian Institute for Health Information
1 AU en: abs.gov.au Australian Bureau of Statistics | bom.gov.au Bureau of Meteorology | legislation.gov.au Federal Register of Legislation | rba.gov.au Reserve Bank of Australia | aihw.gov.au Australian Institute of Health and Welfare | health.gov.au Department of Health | aph.gov.au Parliament of Australia | ga.gov.au Geoscience Australia
1 NZ en: stats.govt.nz Stats NZ | legislation.govt.nz New Zealand Legislation | rbnz.govt.nz Reserve Bank of New Zealand
1 IE en: cso.ie Central Statistics Office | irishstatutebook.ie Irish Statute Book | gov.ie Government of Ireland
1 DE de: destatis.de Statistisches Bundesamt | bundesbank.de Deutsche Bundesbank | rki.de Robert Koch-Institut | umweltbundesamt.de Umweltbundesamt | bundestag.de Deutscher Bundestag | bundesregierung.de Bundesregierung | gesetze-im-internet.de Gesetze im Internet | dwd.de Deutscher Wetterdienst | bundesverfassungsgericht.de Bundesverfassungsgericht | bsi.bund.de Bundesamt für Sicherheit in der Informationstechnik
2 DE de: bmwk.de Bundesministerium für Wirtschaft | bafin.de BaFin | bundesnetzagentur.de Bundesnetzagentur | pei.de Paul-Ehrlich-Institut | bfr.bund.de Bundesinstitut für Risikobewertung
1 FR fr: insee.fr Insee | legifrance.gouv.fr Légifrance | banque-france.fr Banque de France | service-public.fr Service-Public | assemblee-nationale.fr Assemblée nationale | senat.fr Sénat | santepubliquefrance.fr Santé publique France | data.gouv.fr data.gouv.fr | conseil-constitutionnel.fr Conseil constitutionnel
1 IT it: istat.it Istat | bancaditalia.it Banca d'Italia | gazzettaufficiale.it Gazzetta Ufficiale | iss.it Istituto Superiore di Sanità
1 ES es: ine.es Instituto Nacional de Estadística | boe.es Boletín Oficial del Estado | bde.es Banco de España
1 PT pt: ine.pt Instituto Nacional de Estatística
1 NL nl: cbs.nl Centraal Bureau voor de Statistiek | rivm.nl RIVM | dnb.nl De Nederlandsche Bank | overheid.nl Overheid | knmi.nl KNMI
1 BE fr: statbel.fgov.be Statbel | nbb.be National Bank of Belgium
1 CH de: bfs.admin.ch Bundesamt für Statistik | admin.ch Schweizerische Eidgenossenschaft | snb.ch Schweizerische Nationalbank | bag.admin.ch Bundesamt für Gesundheit
1 AT de: statistik.at Statistik Austria | ris.bka.gv.at Rechtsinformationssystem des Bundes | oenb.at Oesterreichische Nationalbank
1 SE sv: scb.se Statistiska centralbyrån | riksbank.se Sveriges riksbank | folkhalsomyndigheten.se Folkhälsomyndigheten | smhi.se SMHI
1 NO no: ssb.no Statistisk sentralbyrå | fhi.no Folkehelseinstituttet | norges-bank.no Norges Bank | met.no Meteorologisk institutt
1 DK da: dst.dk Danmarks Statistik | ssi.dk Statens Serum Institut | nationalbanken.dk Danmarks Nationalbank
1 FI fi: stat.fi Tilastokeskus | thl.fi Terveyden ja hyvinvoinnin laitos | finlex.fi Finlex
1 IS is: statice.is Hagstofa Íslands
1 PL pl: stat.gov.pl Główny Urząd Statystyczny | nbp.pl Narodowy Bank Polski
1 CZ cs: czso.cz Český statistický úřad | cnb.cz Česká národní banka
1 HU hu: ksh.hu Központi Statisztikai Hivatal
1 EE et: stat.ee Statistikaamet
1 GR el: statistics.gr Hellenic Statistical Authority
1 TR tr: tuik.gov.tr Türkiye İstatistik Kurumu
1 RU ru: rosstat.gov.ru Росстат | cbr.ru Банк России
1 UA uk: ukrstat.gov.ua State Statistics Service of Ukraine
1 JP ja: stat.go.jp 総務省統計局 | e-stat.go.jp 政府統計の総合窓口 | boj.or.jp 日本銀行 | mhlw.go.jp 厚生労働省 | meti.go.jp 経済産業省 | mext.go.jp 文部科学省 | env.go.jp 環境省 | mofa.go.jp 外務省 | mof.go.jp 財務省 | jma.go.jp 気象庁 | cao.go.jp 内閣府 | elaws.e-gov.go.jp e-Gov法令検索 | ndl.go.jp 国立国会図書館 | courts.go.jp 裁判所
1 KR ko: kostat.go.kr 통계청 | kosis.kr 국가통계포털 | bok.or.kr 한국은행 | law.go.kr 국가법령정보센터 | kdca.go.kr 질병관리청 | korea.kr 대한민국 정책브리핑
1 IN en: mospi.gov.in Ministry of Statistics | rbi.org.in Reserve Bank of India | censusindia.gov.in Census of India | indiacode.nic.in India Code | pib.gov.in Press Information Bureau
1 ID id: bps.go.id Badan Pusat Statistik
1 MY ms: dosm.gov.my Department of Statistics Malaysia
1 TH th: nso.go.th National Statistical Office of Thailand
1 VN vi: gso.gov.vn General Statistics Office of Vietnam
1 PH en: psa.gov.ph Philippine Statistics Authority
1 IL he: cbs.gov.il Central Bureau of Statistics | boi.org.il Bank of Israel
1 SA ar: stats.gov.sa General Authority for Statistics
1 ZA en: statssa.gov.za Statistics South Africa | resbank.co.za South African Reserve Bank
1 KE en: knbs.or.ke Kenya National Bureau of Statistics
1 NG en: nigerianstat.gov.ng National Bureau of Statistics
1 EG ar: capmas.gov.eg CAPMAS
1 BR pt: ibge.gov.br IBGE | bcb.gov.br Banco Central do Brasil | planalto.gov.br Presidência da República | fiocruz.br Fiocruz
1 MX es: inegi.org.mx INEGI | banxico.org.mx Banco de México
1 AR es: indec.gob.ar INDEC
1 CL es: ine.gob.cl INE Chile | bcn.cl Biblioteca del Congreso Nacional
1 CO es: dane.gov.co DANE
1 PE es: inei.gob.pe INEI
"""
INTERNATIONAL = """
1 - en: un.org United Nations | who.int World Health Organization | worldbank.org World Bank | imf.org International Monetary Fund | oecd.org OECD | oecd-ilibrary.org OECD iLibrary | wto.org World Trade Organization | ilo.org International Labour Organization | fao.org Food and Agriculture Organization | unesco.org UNESCO | unicef.org UNICEF | undp.org UN Development Programme | unep.org UN Environment Programme | unhcr.org UN Refugee Agency | unfpa.org UN Population Fund | unodc.org UN Office on Drugs and Crime | unctad.org UN Trade and Development | unece.org UN Economic Commission for Europe | unescap.org UN ESCAP | cepal.org CEPAL | uneca.org UN Economic Commission for Africa | unfccc.int UN Climate Change | ipcc.ch Intergovernmental Panel on Climate Change | ipbes.net IPBES | wmo.int World Meteorological Organization | itu.int International Telecommunication Union | wipo.int World Intellectual Property Organization | iaea.org International Atomic Energy Agency | iea.org International Energy Agency | irena.org International Renewable Energy Agency | icao.int International Civil Aviation Organization | imo.org International Maritime Organization | upu.int Universal Postal Union | unwto.org UN Tourism | ifad.org IFAD | wfp.org World Food Programme | unaids.org UNAIDS | ohchr.org UN Human Rights Office | icj-cij.org International Court of Justice | icc-cpi.int International Criminal Court | bis.org Bank for International Settlements | fsb.org Financial Stability Board | wcoomd.org World Customs Organization | woah.org World Organisation for Animal Health | paho.org Pan American Health Organization | iarc.who.int International Agency for Research on Cancer | europa.eu European Union | ecb.europa.eu European Central Bank | eurostat.ec.europa.eu Eurostat | eur-lex.europa.eu EUR-Lex | ema.europa.eu European Medicines Agency | ecdc.europa.eu European Centre for Disease Prevention and Control | eea.europa.eu European Environment Agency | efsa.europa.eu European Food Safety Authority | coe.int Council of Europe | echr.coe.int European Court of Human Rights | epo.org European Patent Office | esa.int European Space Agency | ecmwf.int ECMWF | eumetsat.int EUMETSAT
2 - en: adb.org Asian Development Bank | aiib.org Asian Infrastructure Investment Bank | afdb.org African Development Bank | iadb.org Inter-American Development Bank | ebrd.com EBRD | eib.org European Investment Bank | ndb.int New Development Bank | nato.int NATO | osce.org OSCE | oas.org Organization of American States | au.int African Union | asean.org ASEAN | apec.org APEC | interpol.int INTERPOL | opec.org OPEC | iom.int International Organization for Migration | unhabitat.org UN-Habitat | unwomen.org UN Women | unicri.it UNICRI | unu.edu United Nations University | icrc.org International Committee of the Red Cross | ifrc.org IFRC | gavi.org Gavi | theglobalfund.org The Global Fund | thegef.org Global Environment Facility | greenclimate.fund Green Climate Fund | iucn.org IUCN | cites.org CITES | cbd.int Convention on Biological Diversity | fatf-gafi.org FATF | iosco.org IOSCO | opcw.org OPCW | ctbto.org CTBTO | reliefweb.int ReliefWeb | ipu.org Inter-Parliamentary Union | idea.int International IDEA | amro-asia.org AMRO | sectsco.org Shanghai Cooperation Organisation
"""
RESEARCH = """
1 - en: cern.ch CERN | embl.org European Molecular Biology Laboratory | ebi.ac.uk European Bioinformatics Institute | eso.org European Southern Observatory | iter.org ITER
1 US en: nasonline.org National Academy of Sciences | nationalacademies.org National Academies | broadinstitute.org Broad Institute | hhmi.org Howard Hughes Medical Institute | nber.org National Bureau of Economic Research | mayoclinic.org Mayo Clinic | hopkinsmedicine.org Johns Hopkins Medicine | si.edu Smithsonian Institution | whoi.edu Woods Hole Oceanographic Institution | jpl.nasa.gov Jet Propulsion Laboratory | ucar.edu University Corporation for Atmospheric Research | nrao.edu National Radio Astronomy Observatory | stsci.edu Space Telescope Science Institute | slac.stanford.edu SLAC | fnal.gov Fermilab | ncbi.nlm.nih.gov National Center for Biotechnology Information | nlm.nih.gov National Library of Medicine
2 US en: rand.org RAND | brookings.edu Brookings | pewresearch.org Pew Research Center | gallup.com Gallup | cfr.org Council on Foreign Relations | csis.org CSIS | carnegieendowment.org Carnegie Endowment | piie.com Peterson Institute | urban.org Urban Institute | wri.org World Resources Institute | resources.org Resources for the Future | kff.org KFF | commonwealthfund.org Commonwealth Fund | guttmacher.org Guttmacher Institute | wilsoncenter.org Wilson Center | atlanticcouncil.org Atlantic Council | hoover.org Hoover Institution | aei.org American Enterprise Institute | cato.org Cato Institute | epi.org Economic Policy Institute | taxpolicycenter.org Tax Policy Center | ifpri.org IFPRI | cgdev.org Center for Global Development | energypolicy.columbia.edu Center on Global Energy Policy | rmi.org RMI | climatepolicyinitiative.org Climate Policy Initiative | salk.edu Salk Institute | scripps.edu Scripps Research | fredhutch.org Fred Hutchinson | mskcc.org Memorial Sloan Kettering | clevelandclinic.org Cleveland Clinic | cancer.org American Cancer Society | heart.org American Heart Association | diabetes.org American Diabetes Association | alleninstitute.org Allen Institute | allenai.org Allen Institute for AI | conference-board.org The Conference Board | sipri.org SIPRI | hai.stanford.edu Stanford HAI
1 GB en: crick.ac.uk Francis Crick Institute | sanger.ac.uk Wellcome Sanger Institute | royalsociety.org Royal Society | turing.ac.uk Alan Turing Institute | nhm.ac.uk Natural History Museum | kew.org Royal Botanic Gardens Kew | bgs.ac.uk British Geological Survey | bas.ac.uk British Antarctic Survey | cochrane.org Cochrane | cochranelibrary.com Cochrane Library
2 GB en: chathamhouse.org Chatham House | ifs.org.uk Institute for Fiscal Studies | niesr.ac.uk NIESR | iiss.org IISS | kingsfund.org.uk The King's Fund | nuffieldtrust.org.uk Nuffield Trust | cancerresearchuk.org Cancer Research UK | odi.org ODI | iied.org IIED | cepr.org CEPR | wellcome.org Wellcome | ukri.org UK Research and Innovation
1 DE en: mpg.de Max-Planck-Gesellschaft | helmholtz.de Helmholtz-Gemeinschaft | leopoldina.org Leopoldina | dlr.de Deutsches Zentrum für Luft- und Raumfahrt | dkfz.de Deutsches Krebsforschungszentrum | desy.de DESY | pik-potsdam.de Potsdam-Institut für Klimafolgenforschung | awi.de Alfred-Wegener-Institut
2 DE de: fraunhofer.de Fraunhofer-Gesellschaft | leibniz-gemeinschaft.de Leibniz-Gemeinschaft | ifo.de ifo Institut | diw.de DIW Berlin | ifw-kiel.de Kiel Institut für Weltwirtschaft | swp-berlin.org SWP | zew.de ZEW | iwkoeln.de Institut der deutschen Wirtschaft | iab.de IAB | dzne.de DZNE | fz-juelich.de Forschungszentrum Jülich | gfz-potsdam.de GFZ Potsdam
1 FR fr: cnrs.fr CNRS | inserm.fr Inserm | inria.fr Inria | pasteur.fr Institut Pasteur | cea.fr CEA | cnes.fr CNES | inrae.fr INRAE | academie-sciences.fr Académie des sciences
2 FR fr: ifremer.fr Ifremer | ird.fr IRD | ined.fr Ined | ifri.org Ifri | cepii.fr CEPII | obspm.fr Observatoire de Paris
2 BE en: bruegel.org Bruegel | ceps.eu CEPS
2 CH en: psi.ch Paul Scherrer Institut | empa.ch Empa | wsl.ch WSL
2 AT en: iiasa.ac.at IIASA | oeaw.ac.at Österreichische Akademie der Wissenschaften | wifo.ac.at WIFO
2 NL en: tno.nl TNO | knaw.nl KNAW | clingendael.org Clingendael
2 IT it: cnr.it Consiglio Nazionale delle Ricerche | infn.it INFN | inaf.it INAF
2 ES es: csic.es CSIC | bsc.es Barcelona Supercomputing Center
1 SE en: nobelprize.org Nobel Prize | kva.se Royal Swedish Academy of Sciences
1 CN zh: cas.cn 中国科学院 | cae.cn 中国工程院 | cass.cn 中国社会科学院 | cssn.cn 中国社会科学网 | drc.gov.cn 国务院发展研究中心 | caict.ac.cn 中国信息通信研究院 | caas.cn 中国农业科学院 | cams.ac.cn 中国医学科学院 | nssc.ac.cn 国家空间科学中心 | cnic.cn 中国科学院计算机网络信息中心
2 CN zh: casisd.cn 中国科学院科技战略咨询研究院 | ccidgroup.com 中国电子信息产业发展研究院 | cnnic.cn 中国互联网络信息中心 | ihep.ac.cn 中国科学院高能物理研究所 | ict.ac.cn 中国科学院计算技术研究所 | ia.ac.cn 中国科学院自动化研究所 | iop.cas.cn 中国科学院物理研究所 | pcl.ac.cn 鹏城实验室 | baai.ac.cn 北京智源人工智能研究院 | ciis.org.cn 中国国际问题研究院 | cicir.ac.cn 中国现代国际关系研究院 | cciee.org.cn 中国国际经济交流中心 | cncb.ac.cn 国家生物信息中心 | cf40.org.cn 中国金融四十人论坛
1 TW zh: sinica.edu.tw 中央研究院
1 JP ja: riken.jp 理化学研究所 | jaxa.jp 宇宙航空研究開発機構 | aist.go.jp 産業技術総合研究所 | jst.go.jp 科学技術振興機構 | nims.go.jp 物質・材料研究機構 | nies.go.jp 国立環境研究所 | jamstec.go.jp 海洋研究開発機構
2 JP ja: rieti.go.jp 経済産業研究所 | ide.go.jp アジア経済研究所 | nistep.go.jp 科学技術・学術政策研究所
2 KR ko: kdi.re.kr 한국개발연구원 | kist.re.kr KIST | etri.re.kr ETRI | kiep.go.kr 대외경제정책연구원
1 AU en: csiro.au CSIRO | science.org.au Australian Academy of Science
2 AU en: lowyinstitute.org Lowy Institute | grattan.edu.au Grattan Institute | aspi.org.au ASPI
2 CA en: fraserinstitute.org Fraser Institute | cdhowe.org C.D. Howe Institute | mila.quebec Mila
2 IN en: tifr.res.in Tata Institute of Fundamental Research | isro.gov.in ISRO | icmr.gov.in Indian Council of Medical Research | csir.res.in CSIR India
2 SG en: a-star.edu.sg A*STAR | iseas.edu.sg ISEAS
2 IL en: weizmann.ac.il Weizmann Institute
2 RU ru: ras.ru Российская академия наук
2 BR pt: ipea.gov.br Ipea | inpe.br INPE | embrapa.br Embrapa
2 ZA en: csir.co.za CSIR South Africa | hsrc.ac.za HSRC
"""
ACADEMIC = """
1 - en: nature.com Nature | science.org Science | cell.com Cell Press | thelancet.com The Lancet | nejm.org New England Journal of Medicine | bmj.com BMJ | jamanetwork.com JAMA Network | pnas.org PNAS | royalsocietypublishing.org Royal Society Publishing | annualreviews.org Annual Reviews | pubmed.ncbi.nlm.nih.gov PubMed | elifesciences.org eLife | acpjournals.org Annals of Internal Medicine | aeaweb.org American Economic Association | ams.org American Mathematical Society | aps.org American Physical Society | acs.org American Chemical Society | rsc.org Royal Society of Chemistry | iop.org Institute of Physics | acm.org Association for Computing Machinery | ieee.org IEEE | aclanthology.org ACL Anthology
2 - en: sciencedirect.com ScienceDirect | springer.com Springer | link.springer.com SpringerLink | wiley.com Wiley | tandfonline.com Taylor and Francis | sagepub.com SAGE | oup.com Oxford University Press | cambridge.org Cambridge University Press | jstor.org JSTOR | muse.jhu.edu Project MUSE | plos.org PLOS | frontiersin.org Frontiers | biomedcentral.com BioMed Central | arxiv.org arXiv | biorxiv.org bioRxiv | medrxiv.org medRxiv | chemrxiv.org ChemRxiv | ssrn.com SSRN | osf.io Open Science Framework | zenodo.org Zenodo | doaj.org DOAJ | crossref.org Crossref | doi.org DOI | orcid.org ORCID | semanticscholar.org Semantic Scholar | openalex.org OpenAlex | europepmc.org Europe PMC | core.ac.uk CORE | dblp.org dblp | openreview.net OpenReview | neurips.cc NeurIPS | jmlr.org JMLR | mlr.press Proceedings of Machine Learning Research | usenix.org USENIX | siam.org SIAM | degruyter.com De Gruyter | brill.com Brill | mitpress.mit.edu MIT Press | press.princeton.edu Princeton University Press | uchicago.edu University of Chicago | agu.org American Geophysical Union | aip.org American Institute of Physics | apa.org American Psychological Association | psychiatry.org American Psychiatric Association | aap.org American Academy of Pediatrics | ama-assn.org American Medical Association | acc.org American College of Cardiology | aaas.org AAAS | healthaffairs.org Health Affairs | econometricsociety.org Econometric Society | ascopubs.org ASCO Publications | ahajournals.org AHA Journals | physiology.org American Physiological Society | asm.org American Society for Microbiology | copernicus.org Copernicus Publications | scielo.org SciELO | repec.org RePEc | ideas.repec.org IDEAS | eric.ed.gov ERIC | hathitrust.org HathiTrust | mathoverflow.net MathOverflow | oeis.org On-Line Encyclopedia of Integer Sequences | dlmf.nist.gov Digital Library of Mathematical Functions
3 - en: mdpi.com MDPI | hindawi.com Hindawi | researchgate.net ResearchGate | academia.edu Academia.edu | hal.science HAL
2 CN zh: cnki.net 中国知网 | wanfangdata.com.cn 万方数据 | sciencenet.cn 科学网 | scichina.com 中国科学 | cast.org.cn 中国科学技术协会 | ccf.org.cn 中国计算机学会 | cma.org.cn 中华医学会 | nlc.cn 国家图书馆 | chinaxiv.org ChinaXiv | nstl.gov.cn 国家科技图书文献中心 | ncpssd.org 国家哲学社会科学文献中心
2 JP ja: jstage.jst.go.jp J-STAGE | cir.nii.ac.jp CiNii Research
2 KR ko: kci.go.kr KCI
"""
STANDARDS = """
1 - en: iso.org ISO | iec.ch IEC | ietf.org IETF | rfc-editor.org RFC Editor | w3.org W3C | unicode.org Unicode Consortium | whatwg.org WHATWG | iana.org IANA | icann.org ICANN | etsi.org ETSI | 3gpp.org 3GPP | bipm.org BIPM | ecma-international.org Ecma International | oasis-open.org OASIS | khronos.org Khronos Group | ifrs.org IFRS | codexalimentarius.org Codex Alimentarius | iupac.org IUPAC | iau.org International Astronomical Union | ashrae.org ASHRAE | astm.org ASTM International | standards.ieee.org IEEE Standards | open-std.org ISO C and C++ working groups | opengeospatial.org Open Geospatial Consortium | usb.org USB Implementers Forum | bluetooth.com Bluetooth SIG | wi-fi.org Wi-Fi Alliance | hl7.org HL7 | cabforum.org CA/Browser Forum
1 US en: ansi.org ANSI | fasb.org FASB | nfpa.org NFPA | usp.org US Pharmacopeia | pcaobus.org PCAOB
1 GB en: bsigroup.com BSI
1 DE de: din.de DIN
1 FR fr: afnor.org AFNOR
1 JP ja: jisc.go.jp 日本産業標準調査会
1 CN zh: sac.gov.cn 国家标准化管理委员会 | openstd.samr.gov.cn 国家标准全文公开系统 | std.samr.gov.cn 全国标准信息公共服务平台 | ccsa.org.cn 中国通信标准化协会 | casc.org.cn 中国会计准则委员会
1 - en: cencenelec.eu CEN-CENELEC
2 - en: python.org Python | kernel.org The Linux Kernel | gnu.org GNU | apache.org Apache Software Foundation | postgresql.org PostgreSQL | sqlite.org SQLite | rust-lang.org Rust | go.dev Go | isocpp.org Standard C++ Foundation | cppreference.com cppreference | developer.mozilla.org MDN Web Docs | debian.org Debian | pytorch.org PyTorch | tensorflow.org TensorFlow | numpy.org NumPy | scipy.org SciPy | cve.org CVE | nvd.nist.gov National Vulnerability Database | owasp.org OWASP | mitre.org MITRE | kubernetes.io Kubernetes | opensource.org Open Source Initiative | spdx.org SPDX | creativecommons.org Creative Commons
"""
REFERENCE = """
2 - en: britannica.com Encyclopaedia Britannica | plato.stanford.edu Stanford Encyclopedia of Philosophy | iep.utm.edu Internet Encyclopedia of Philosophy | oxfordreference.com Oxford Reference | oed.com Oxford English Dictionary | merriam-webster.com Merriam-Webster | ourworldindata.org Our World in Data | gapminder.org Gapminder | worldhistory.org World History Encyclopedia | mathworld.wolfram.com MathWorld | encyclopediaofmath.org Encyclopedia of Mathematics | msdmanuals.com MSD Manuals | uptodate.com UpToDate | drugs.com Drugs.com | oyez.org Oyez | law.cornell.edu Legal Information Institute | justia.com Justia | bailii.org BAILII | worldlii.org WorldLII | iranicaonline.org Encyclopaedia Iranica | perseus.tufts.edu Perseus Digital Library | gbif.org GBIF | iucnredlist.org IUCN Red List | catalogueoflife.org Catalogue of Life | eol.org Encyclopedia of Life | uniprot.org UniProt | rcsb.org Protein Data Bank | ensembl.org Ensembl | materialsproject.org Materials Project | ballotpedia.org Ballotpedia | constituteproject.org Constitute | v-dem.net V-Dem | freedomhouse.org Freedom House | transparency.org Transparency International | factcheck.org FactCheck.org | politifact.com PolitiFact | snopes.com Snopes | fullfact.org Full Fact | fred.stlouisfed.org FRED
3 - en: wikipedia.org Wikipedia | wikidata.org Wikidata | wikisource.org Wikisource | wiktionary.org Wiktionary | wikimedia.org Wikimedia | openstreetmap.org OpenStreetMap | archive.org Internet Archive | gutenberg.org Project Gutenberg | encyclopedia.com Encyclopedia.com | statista.com Statista | worldometers.info Worldometer | investopedia.com Investopedia | stackexchange.com Stack Exchange | stackoverflow.com Stack Overflow
2 CN zh: zgbk.com 中国大百科全书 | pkulaw.com 北大法宝 | chinacourt.org 中国法院网 | dxy.cn 丁香园 | ctext.org 中國哲學書電子化計劃
3 CN zh: baike.baidu.com 百度百科 | oi-wiki.org OI Wiki
2 DE de: duden.de Duden
2 FR fr: larousse.fr Larousse | universalis.fr Encyclopaedia Universalis
2 IT it: treccani.it Treccani
2 JP ja: kotobank.jp コトバンク
3 CH de: hls-dhs-dss.ch Historisches Lexikon der Schweiz
"""
PRESS = """
2 - en: reuters.com Reuters | apnews.com Associated Press | afp.com Agence France-Presse
2 GB en: bbc.com BBC | bbc.co.uk BBC | ft.com Financial Times | economist.com The Economist
2 US en: npr.org NPR | propublica.org ProPublica | wsj.com The Wall Street Journal | nytimes.com The New York Times | washingtonpost.com The Washington Post | bloomberg.com Bloomberg | scientificamerican.com Scientific American | pbs.org PBS | c-span.org C-SPAN | icij.org International Consortium of Investigative Journalists | quantamagazine.org Quanta Magazine | sciencenews.org Science News | technologyreview.com MIT Technology Review | foreignaffairs.com Foreign Affairs | hbr.org Harvard Business Review
3 US en: abcnews.go.com ABC News | cbsnews.com CBS News | nbcnews.com NBC News | cnn.com CNN | usatoday.com USA Today | latimes.com Los Angeles Times | csmonitor.com The Christian Science Monitor | theatlantic.com The Atlantic | newyorker.com The New Yorker | time.com Time | politico.com Politico | axios.com Axios | thehill.com The Hill | rollcall.com Roll Call | usnews.com U.S. News | nationalgeographic.com National Geographic | smithsonianmag.com Smithsonian Magazine | wired.com Wired | arstechnica.com Ars Technica | theverge.com The Verge | foreignpolicy.com Foreign Policy | voanews.com Voice of America | upi.com UPI | fortune.com Fortune | vox.com Vox | chicagotribune.com Chicago Tribune | bostonglobe.com The Boston Globe | sfchronicle.com San Francisco Chronicle | seattletimes.com The Seattle Times | startribune.com Star Tribune | inquirer.com The Philadelphia Inquirer | dallasnews.com The Dallas Morning News | houstonchronicle.com Houston Chronicle | miamiherald.com Miami Herald | tampabay.com Tampa Bay Times | denverpost.com The Denver Post | mercurynews.com The Mercury News | texastribune.org The Texas Tribune | themarshallproject.org The Marshall Project | lawfareblog.com Lawfare | scotusblog.com SCOTUSblog | defensenews.com Defense News | statnews.com STAT | medpagetoday.com MedPage Today | the-scientist.com The Scientist | space.com Space.com | eurekalert.org EurekAlert | phys.org Phys.org | marketwatch.com MarketWatch | cnbc.com CNBC | barrons.com Barron's | opensecrets.org OpenSecrets | theconversation.com The Conversation | americanscientist.org American Scientist | rfa.org Radio Free Asia
3 GB en: theguardian.com The Guardian | telegraph.co.uk The Telegraph | thetimes.co.uk The Times | independent.co.uk The Independent | newscientist.com New Scientist | news.sky.com Sky News | scotsman.com The Scotsman | theregister.com The Register | bellingcat.com Bellingcat
3 IE en: irishtimes.com The Irish Times | rte.ie RTE
3 CA en: cbc.ca CBC | theglobeandmail.com The Globe and Mail | thestar.com Toronto Star | ctvnews.ca CTV News
3 AU en: abc.net.au ABC Australia | smh.com.au The Sydney Morning Herald | theage.com.au The Age | afr.com Australian Financial Review
3 NZ en: nzherald.co.nz The New Zealand Herald | rnz.co.nz RNZ | stuff.co.nz Stuff
3 IN en: thehindu.com The Hindu | indianexpress.com The Indian Express | livemint.com Mint
3 QA en: aljazeera.com Al Jazeera
3 DE de: dw.com Deutsche Welle | spiegel.de Der Spiegel | zeit.de Die Zeit | faz.net Frankfurter Allgemeine | sueddeutsche.de Süddeutsche Zeitung | tagesschau.de Tagesschau | zdf.de ZDF
3 FR fr: lemonde.fr Le Monde | france24.com France 24 | lefigaro.fr Le Figaro | liberation.fr Libération
3 IT it: ansa.it ANSA | corriere.it Corriere della Sera | repubblica.it la Repubblica
3 ES es: elpais.com El País | elmundo.es El Mundo
3 BE fr: lesoir.be Le Soir
3 CH de: nzz.ch Neue Zürcher Zeitung | swissinfo.ch Swissinfo
3 PL pl: wyborcza.pl Gazeta Wyborcza
3 IL en: haaretz.com Haaretz | timesofisrael.com The Times of Israel
3 JP en: japantimes.co.jp The Japan Times | asia.nikkei.com Nikkei Asia | nhk.or.jp NHK | asahi.com 朝日新聞 | mainichi.jp 毎日新聞
3 KR en: koreaherald.com The Korea Herald | koreatimes.co.kr The Korea Times | yna.co.kr Yonhap
3 HK en: scmp.com South China Morning Post
3 SG en: straitstimes.com The Straits Times | channelnewsasia.com CNA
3 TH en: bangkokpost.com Bangkok Post
3 PH en: rappler.com Rappler
3 ZA en: mg.co.za Mail and Guardian | news24.com News24
3 AE en: thenationalnews.com The National
"""
CHINESE_PRESS = {  # name on the list of media whose news others may reprint: domain (their languages: zh)
 "新华网": "news.cn", "新华社": "xinhuanet.com", "人民网": "people.com.cn", "中国网": "china.com.cn", "央视网": "cctv.com", "央广网": "cnr.cn", "国际在线": "cri.cn", "中国日报网": "chinadaily.com.cn",
 "中国新闻网": "chinanews.com.cn", "中国经济网": "ce.cn", "光明网": "gmw.cn", "中国青年网": "youth.cn", "中青在线": "cyol.com", "求是网": "qstheory.cn", "参考消息网": "cankaoxiaoxi.com",
 "中工网": "workercn.cn", "法制网": "legaldaily.com.cn", "科技日报": "stdaily.com", "经济参考报": "jjckb.cn", "中国证券报": "cs.com.cn", "中国军网": "81.cn", "正义网": "jcrb.com", "理论网": "cntheory.com",
 "人民论坛网": "rmlt.com.cn", "金融时报": "financialnews.com.cn", "中国社会科学网": "cssn.cn", "财新网": "caixin.com", "新京报": "bjnews.com.cn", "澎湃新闻网": "thepaper.cn",
 "一财网": "yicai.com", "东方网": "eastday.com", "新民网": "xinmin.cn", "解放网": "jfdaily.com", "千龙新闻网": "qianlong.com", "北方网": "enorth.com.cn", "三联生活周刊": "lifeweek.com.cn",
 "中国经济周刊": "ceweekly.cn", "中国新闻周刊": "inewsweek.cn", "健康报": "jkb.com.cn", "中国教育报": "jyb.cn", "农民日报": "farmer.com.cn", "中国气象网": "weather.com.cn"}
UNIVERSITIES = {  # domains on the list of universities; name and country come from it
 1: """harvard.edu mit.edu stanford.edu berkeley.edu caltech.edu princeton.edu yale.edu uchicago.edu columbia.edu cornell.edu upenn.edu jhu.edu ox.ac.uk cam.ac.uk imperial.ac.uk ucl.ac.uk
    ethz.ch epfl.ch tsinghua.edu.cn pku.edu.cn u-tokyo.ac.jp nus.edu.sg""",
 2: """umich.edu ucla.edu ucsd.edu ucsf.edu washington.edu duke.edu northwestern.edu nyu.edu cmu.edu utexas.edu wisc.edu illinois.edu gatech.edu purdue.edu umd.edu umn.edu psu.edu osu.edu unc.edu virginia.edu
    brown.edu dartmouth.edu rice.edu vanderbilt.edu emory.edu wustl.edu nd.edu georgetown.edu usc.edu ucdavis.edu uci.edu ucsb.edu bu.edu tufts.edu rochester.edu case.edu pitt.edu ufl.edu tamu.edu asu.edu
    arizona.edu colorado.edu utah.edu indiana.edu msu.edu rutgers.edu stonybrook.edu umass.edu ncsu.edu vt.edu rockefeller.edu gwu.edu
    ed.ac.uk manchester.ac.uk kcl.ac.uk lse.ac.uk bristol.ac.uk warwick.ac.uk gla.ac.uk birmingham.ac.uk leeds.ac.uk sheffield.ac.uk nottingham.ac.uk soton.ac.uk dur.ac.uk st-andrews.ac.uk york.ac.uk
    exeter.ac.uk bath.ac.uk qmul.ac.uk lancs.ac.uk cardiff.ac.uk lshtm.ac.uk sussex.ac.uk tcd.ie ucd.ie
    tum.de lmu.de uni-heidelberg.de fu-berlin.de hu-berlin.de tu-berlin.de rwth-aachen.de kit.edu uni-freiburg.de uni-bonn.de uni-goettingen.de uni-hamburg.de uni-tuebingen.de tu-dresden.de uni-koeln.de
    uzh.ch unige.ch unibas.ch unibe.ch unil.ch univie.ac.at tuwien.ac.at sorbonne-universite.fr ens.fr polytechnique.edu polytechnique.fr sciencespo.fr universite-paris-saclay.fr psl.eu
    tudelft.nl uva.nl uu.nl leidenuniv.nl rug.nl eur.nl vu.nl tue.nl wur.nl kuleuven.be ugent.be uclouvain.be ku.dk dtu.dk au.dk uio.no ntnu.no uib.no kth.se lu.se uu.se su.se ki.se chalmers.se helsinki.fi aalto.fi
    unibo.it polimi.it uniroma1.it unipd.it sns.it ub.edu uab.cat uam.es ucm.es upc.edu ulisboa.pt up.pt uw.edu.pl uj.edu.pl cuni.cz elte.hu ut.ee auth.gr uoa.gr msu.ru spbu.ru boun.edu.tr metu.edu.tr
    toronto.edu utoronto.ca ubc.ca mcgill.ca uwaterloo.ca ualberta.ca mcmaster.ca umontreal.ca queensu.ca anu.edu.au unimelb.edu.au sydney.edu.au usyd.edu.au unsw.edu.au uq.edu.au monash.edu uwa.edu.au adelaide.edu.au auckland.ac.nz otago.ac.nz
    kyoto-u.ac.jp osaka-u.ac.jp tohoku.ac.jp nagoya-u.ac.jp titech.ac.jp kyushu-u.ac.jp hokudai.ac.jp keio.ac.jp waseda.ac.jp hit-u.ac.jp snu.ac.kr kaist.ac.kr postech.ac.kr yonsei.ac.kr korea.ac.kr skku.edu
    ntu.edu.sg smu.edu.sg hku.hk cuhk.edu.hk ust.hk hkust.edu.hk cityu.edu.hk polyu.edu.hk um.edu.mo ntu.edu.tw nthu.edu.tw nctu.edu.tw ncku.edu.tw
    fudan.edu.cn sjtu.edu.cn zju.edu.cn ustc.edu.cn nju.edu.cn ruc.edu.cn buaa.edu.cn bit.edu.cn bnu.edu.cn cau.edu.cn nankai.edu.cn tju.edu.cn dlut.edu.cn jlu.edu.cn hit.edu.cn tongji.edu.cn ecnu.edu.cn seu.edu.cn
    xmu.edu.cn sdu.edu.cn whu.edu.cn hust.edu.cn hnu.edu.cn csu.edu.cn sysu.edu.cn scut.edu.cn cqu.edu.cn scu.edu.cn uestc.edu.cn xjtu.edu.cn nwpu.edu.cn lzu.edu.cn bupt.edu.cn cupl.edu.cn cufe.edu.cn uibe.edu.cn shufe.edu.cn ucas.ac.cn
    iitb.ac.in iitd.ac.in iitm.ac.in iitk.ac.in iisc.ac.in du.ac.in technion.ac.il huji.ac.il tau.ac.il usp.br unicamp.br ufrj.br unam.mx uba.ar uchile.cl uc.cl uct.ac.za wits.ac.za sun.ac.za um.edu.my ui.ac.id chula.ac.th kaust.edu.sa""",
}
REGISTRIES = """
government 3 US en: gov US government sites (.gov) | mil US military (.mil)
government 3 GB en: gov.uk UK government sites
government 3 CN zh: gov.cn 中国各级政府网站
government 3 CA en: gc.ca Government of Canada sites
government 3 AU en: gov.au Australian government sites
government 3 NZ en: govt.nz New Zealand government sites
government 3 IN en: gov.in Indian government sites
government 3 JP ja: go.jp 日本の政府機関
government 3 KR ko: go.kr 대한민국 정부 기관
government 3 TW zh: gov.tw 臺灣政府網站
government 3 SG en: gov.sg Singapore government sites
government 3 ZA en: gov.za South African government sites
government 3 BR pt: gov.br Governo brasileiro
government 3 FR fr: gouv.fr Administration française
government 3 ES es: gob.es Administración española
government 3 MX es: gob.mx Gobierno de México
academic 3 US en: edu US higher education (.edu)
academic 3 GB en: ac.uk UK academic sites
academic 3 CN zh: edu.cn 中国教育网站 | ac.cn 中国科研机构网站
academic 3 JP ja: ac.jp 日本の学術機関
academic 3 KR ko: ac.kr 대한민국 학술 기관
academic 3 AU en: edu.au Australian education sites
academic 3 TW zh: edu.tw 臺灣教育網站
academic 3 HK zh: edu.hk 香港教育網站
academic 3 SG en: edu.sg Singapore education sites
academic 3 IN en: ac.in Indian academic sites
international organisation 2 - en: int International treaty organisations (.int)
"""
LANGUAGE = {"CN": "zh", "TW": "zh", "HK": "zh", "MO": "zh", "JP": "ja", "KR": "ko", "DE": "de", "AT": "de", "CH": "de", "FR": "fr", "IT": "it", "ES": "es", "MX": "es", "AR": "es", "CL": "es",
            "PT": "pt", "BR": "pt", "NL": "nl", "BE": "nl", "DK": "da", "NO": "no", "SE": "sv", "FI": "fi", "PL": "pl", "CZ": "cs", "HU": "hu", "EE": "et", "GR": "el", "RU": "ru", "TR": "tr", "IL": "he",
            "ID": "id", "TH": "th", "SA": "en"}
PRESS_MINIMUM = 0.6  # aggregate quality from 0 to 1 under which a newspaper is left out
FIELDS = ("domain", "name", "tier", "kind", "country", "language", "origin")


def rows_of(text):
    "A table of facts -> (tier, country, language, domain, name)."
    for line in filter(None, text.strip().splitlines()):
        head, _, entries = line.partition(": ")
        tier, country, language = head.split(" ")
        for entry in entries.split(" | "):
            domain, _, name = entry.strip().partition(" ")
            yield int(tier), country.replace("-", ""), language, domain, name


def read_gzip_csv(path):
    with gzip.open(path, "rt", encoding="utf-8-sig", newline="") as lines: return list(csv.DictReader(lines))


def sources(folder):
    "The public lists, by domain."
    with gzip.open(folder / "world_universities_and_domains.json.gz", "rt", encoding="utf-8") as file:
        universities = {domain: entry for entry in json.load(file) for domain in entry["domains"]}
    registry = {row["Domain name"].lower(): row for row in read_gzip_csv(folder / "dotgov_current-full.csv.gz") if row["Domain type"].startswith("Federal")}
    agencies = {row["Domain name"].lower().strip("/") for row in read_gzip_csv(folder / "gsa_govt_urls_full.csv.gz")}
    with open(folder / "domain_pc1.csv", encoding="utf-8", newline="") as lines: quality = {row["domain"]: float(row["pc1"]) for row in csv.DictReader(lines)}
    status = collections.defaultdict(set)
    with open(folder / "DERIVED_wikipedia_perennial_sources.csv", encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            for domain in row["domains"].split(): status[domain.strip("/")].add(row["status"])
    media = set(re.findall(r"[^\s<>《》]+", re.sub(r"<[^>]+>", " ", (folder / "zh_cac_news_whitelist.md").read_text(encoding="utf-8"))))
    return universities, registry, agencies, quality, status, media


def make(folder):
    "-> rows of the list, and what was left out and why."
    universities, registry, agencies, quality, status, media = sources(folder)
    rows, left_out = {}, []

    def put(domain, name, tier, kind, country, language, origin):
        rows.setdefault(domain, dict(zip(FIELDS, (domain, " ".join(name.split()), tier, kind, country, language, origin))))

    def origin_of(domain):
        "The lists that have the domain."
        found = [name for name, known in (("universities", universities), (".gov registry", registry), ("US government sites", agencies), ("news quality scores", quality)) if domain in known]
        if "generally_reliable" in status[domain]: found.append("Wikipedia perennial sources")
        return "; ".join(found) or "selected for stepdr"

    for kind, text in (("government", GOVERNMENT), ("international organisation", INTERNATIONAL), ("research institute", RESEARCH), ("academic", ACADEMIC),
                       ("standards", STANDARDS), ("reference", REFERENCE)):
        for tier, country, language, domain, name in rows_of(text): put(domain, name, tier, kind, country, language, origin_of(domain))
    for tier, text in GOVERNMENT_US.items():
        for domain in text.split():
            entry = registry.get(domain)
            if entry is None and domain.count(".") == 1: left_out.append((domain, "not in the .gov registry")); continue
            parent = entry or registry[domain.split(".", 1)[1]]
            part = parent["Suborganization name"].strip()
            put(domain, part if part not in ("", "(blank)") else parent["Organization name"], tier, "government", "US", "en", ".gov registry")
    for tier, text in UNIVERSITIES.items():
        for domain in text.split():
            if domain not in universities: left_out.append((domain, "not in the list of universities")); continue
            entry = universities[domain]
            put(domain, entry["name"], tier, "academic", entry["alpha_two_code"], LANGUAGE.get(entry["alpha_two_code"], "en"), "universities")
    for tier, country, language, domain, name in rows_of(PRESS):
        bad = status[domain] & {"generally_unreliable", "deprecated", "blacklisted"}
        rated = quality.get(domain, 0) >= PRESS_MINIMUM or "generally_reliable" in status[domain]
        if bad or not rated: left_out.append((domain, f"press: {', '.join(bad) or 'no good rating'} ({quality.get(domain)})")); continue
        put(domain, name, tier, "quality press", country, language, origin_of(domain))
    for name, domain in CHINESE_PRESS.items():
        if name not in media or status[domain] & {"generally_unreliable", "deprecated", "blacklisted"}: left_out.append((domain, f"{name}: not on the list or rated badly")); continue
        put(domain, name, 3, "quality press", "CN", "zh", "Chinese list of reprintable media")
    for line in filter(None, REGISTRIES.strip().splitlines()):
        head, _, entries = line.partition(": ")
        kind, tier, country, language = head.rsplit(" ", 3)
        for entry in entries.split(" | "):
            domain, _, name = entry.partition(" ")
            put(domain, name, int(tier), kind, country.replace("-", ""), language, "registry rule")
    return [rows[domain] for domain in sorted(rows)], left_out


def main(source, target):
    rows, left_out = make(Path(source))
    for domain, reason in left_out: print(f"left out: {domain} ({reason})")
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    Path(target).mkdir(parents=True, exist_ok=True)
    (Path(target) / "domains.csv").write_text(text.getvalue(), encoding="utf-8")
    for field in ("tier", "kind", "language"): print(field, dict(collections.Counter(row[field] for row in rows).most_common()))
    print(len(rows), "domains, of which", sum(row["origin"] == "registry rule" for row in rows), "are registry rules")


if __name__ == "__main__": main(*sys.argv[1:])
